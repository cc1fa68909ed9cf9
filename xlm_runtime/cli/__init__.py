"""`xlm-runtime`: answers, evaluations and facts about bundles on the command line."""
