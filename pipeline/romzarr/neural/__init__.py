"""Neural SINDy: networks as features, and selection that recovers sparse equations.

Networks are trained past overfitting on one operation each (`training`), become candidate
features (`romzarr.numerics.dynamics.neural_library`, in NumPy, so that reading a store needs no
network framework), are diagnosed for dependences (`collinearity`) and chosen from: exactly,
by description length (`selection`, the default), or by routers (`router`), which reproduce
what others reported and show what cures them (`runs`). `distill` says which formula a network is.

Only `mlp`, `training` and `router` import JAX: the extra ``romzarr[neural]``.
"""
