"""The commands ``romzarr neural``: training, runs on known systems, diagnosis, distillation."""
