"""Configurations of other programs, translated into tlsify's, with all that is not carried over."""
