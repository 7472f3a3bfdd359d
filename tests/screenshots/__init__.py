"""Pictures of the Prefect UI for the documentation, taken of the real thing: `make screenshots`."""
