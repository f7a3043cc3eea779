"""Running eyas on other people's clusters."""
