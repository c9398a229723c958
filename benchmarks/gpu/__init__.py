"""Everything about a GPU in one script: is it right, and how fast is each part. See `__main__`."""
