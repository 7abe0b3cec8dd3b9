"""What an account has bought, for how long, what it costs, and what a change of plan costs."""
