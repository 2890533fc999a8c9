"""Commands of neural SINDy: training, runs on known systems, diagnosis, distillation."""
