"""The gallery: a folder of plain files that shows images with their captions in a browser, from a disk or a server."""

from producer.gallery.write import Gallery, GalleryRequest, prepare_folder, write_gallery

__all__ = ["Gallery", "GalleryRequest", "prepare_folder", "write_gallery"]
