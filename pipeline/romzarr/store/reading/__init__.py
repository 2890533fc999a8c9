"""Opens and decodes stores; all untrusted input is checked."""
