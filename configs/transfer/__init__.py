"""Other data sets, from ImageNet weights."""
