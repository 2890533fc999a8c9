"""What romzarr does with archives and stores: a module each, and one public function in it."""
