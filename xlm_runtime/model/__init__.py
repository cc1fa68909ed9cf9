"""A bundle opened: which graph on which provider, rows in, arrays out."""
