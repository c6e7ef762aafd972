"""Trust anchors: found, indexed and read by need."""
