"""The subcommands, one file each: ``main(arguments) -> exit status``, ordinary flags."""
