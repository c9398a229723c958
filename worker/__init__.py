"""The worker: it takes chunks from the queue, captions their images and writes the captions to the database.

`worker` starts one, and so does `celery -A worker worker`.
"""
