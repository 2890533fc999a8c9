"""From a factored archive to what its store holds: which coding, which bits, which model."""
