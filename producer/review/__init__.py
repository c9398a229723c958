"""The review: the page of the gallery, served on this machine to one person, who corrects captions in it."""

from producer.review.server import serve
from producer.review.session import Session

__all__ = ["Session", "serve"]
