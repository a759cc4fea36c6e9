"""What a run or a sweep will cost, before anything runs."""
