"""Parameter ranges, strategies, and studies; a study is handed the function that runs a trial."""
