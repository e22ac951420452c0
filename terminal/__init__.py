"""How the programs of this project behave at a terminal."""
