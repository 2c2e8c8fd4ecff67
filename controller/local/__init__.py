"""The API on the station itself: a unix socket with peer credentials and roles."""
