"""The fallback: a connection whose records stay in userspace, behind a socketpair."""
