"""What precedes the commit: dialing, the handshake, eligibility, stored sessions."""
