"""Image files without what their pixels do not need: texts, colour profiles, thumbnails, dates."""

from __future__ import annotations

from collections.abc import Iterator

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
# Markers of a JPEG file. Its pixels follow the scan's.
_SCAN, _COMMENT, _OF_APPLICATIONS = 0xDA, 0xFE, range(0xE0, 0xF0)
_SHORTEST = {0xE0: 14, 0xE1: 0, 0xEE: 12}  # bytes of JFIF, EXIF, Adobe; shorter ones say nothing
_NEVER = 1 << 16


def without_metadata(data: bytes) -> bytes:
    """Return a PNG or JPEG file with only what decides its pixels, and its EXIF data.

    Args:
        data: an image file, which may be damaged; from the damage on it is left as it is.

    Returns:
        The shorter file; the same bytes for other formats.
    """
    if data.startswith(_PNG):
        return _PNG + b"".join(_png_parts(data))
    if data.startswith(_JPEG):
        return _JPEG + b"".join(_jpeg_parts(data))
    return data


def _png_parts(data: bytes) -> Iterator[bytes]:
    """The chunks whose name begins with a capital, without which nothing can be shown, and EXIF."""
    at = len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")  # length, name, content, checksum
        name = data[at + 4 : at + 8]
        if name[:1].isupper() or name == b"eXIf":
            yield data[at:end]
        at = end
    yield data[at:]


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """The segments but comments and what applications note; JFIF, Adobe and EXIF decide pixels."""
    at = len(_JPEG)
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data) and data[at + 1] != _SCAN:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        is_note = marker == _COMMENT or marker in _OF_APPLICATIONS
        if not is_note or length - 2 >= _SHORTEST.get(marker, _NEVER):
            yield data[at : at + 2 + length]
        at += 2 + length
    yield data[at:]
