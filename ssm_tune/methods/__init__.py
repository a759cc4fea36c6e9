"""The methods: each one file here and one yaml of the same name in conf/method/; none knows the others."""
