"""The run protocol in a world of its own: virtual time, a store that fails on purpose, and one seed that decides everything."""
