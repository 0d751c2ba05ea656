"""From results/ to README.md, docs/, the page of results and the report, through one catalogue of runs."""
