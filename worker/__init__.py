"""Queue to pixels to captions to rows. `worker` starts one; `celery -A worker worker` does as well."""
