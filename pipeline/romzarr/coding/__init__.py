"""Error-bounded coding of arrays: wavelets, quantisation, and a context-modelled range coder."""
