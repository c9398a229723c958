"""`worker bench`: how fast this machine captions a folder of images, what is the limit, and what would help."""
