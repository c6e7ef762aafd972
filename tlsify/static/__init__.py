"""HTTP's rules for files (RFC 9110), without HTTP's I/O: docs/http.md has the table."""
