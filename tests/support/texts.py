"""Texts for tests with generated examples."""

from hypothesis import strategies as st

_CHARACTERS_WITH_A_MEANING = "=+-@\t\r\n\0\"',;\x1b\x7f\x9b\u202e\u2028＝ab"  # for terminals, spreadsheets or files

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from(_CHARACTERS_WITH_A_MEANING))
"""Any text without surrogates; half of them consist of characters that have a meaning somewhere."""
