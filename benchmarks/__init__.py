"""What the server costs and how fast it is, measured through the commands that users have."""
