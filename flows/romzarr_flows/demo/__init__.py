"""``romzarr demo``: a small flow solver, the main job on its output, and a picture."""
