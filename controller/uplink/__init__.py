"""How the cloud hears of the station. Nothing here is ever waited for by a swap."""
