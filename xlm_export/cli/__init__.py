"""`xlm-export`: exports, verification, and further graphs and engines on the command line."""
