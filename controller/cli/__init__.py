"""swapctl, the tool of the technician. It knows the station only through the local API."""
