"""``romzarr demo``: simulates a flow, compresses and verifies it, and draws a picture."""
