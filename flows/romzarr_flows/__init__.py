"""Applications of romzarr: the command line, clusters, nightly runs, reports and the demo."""
