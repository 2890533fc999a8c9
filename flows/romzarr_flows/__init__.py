"""The jobs of romzarr: the command line, where they run, and the demonstration."""
