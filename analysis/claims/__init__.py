"""What the paper says of the synthetic study, answered by a stored one."""
