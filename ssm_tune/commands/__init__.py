"""The subcommands, one file each: ``main(arguments) -> exit status``, ordinary flags."""

SUBCOMMANDS = {
    "plan": "steps, tokens, hours and memory of a run or a sweep, before anything runs",
    "data": "fetch the published data once, for work offline; show examples as the model sees them",
    "search": "try learning rates and options on the selection split, on one budget; write the best into conf/tuned",
    "score": "recompute the metrics of a run's stored predictions, or score predictions of any origin (no torch)",
    "status": "which runs of a sweep are done, running, failed or missing; hours, and an estimate of the rest",
    "table": "print the results so far, or a table of conf/table; write or check the files of tables and figures",
    "show": "a run's scores, and input, reference, output and score of its examples",
    "compare": "two runs or two methods, example by example, with a paired bootstrap",
    "report": "one HTML file of the results: sort, filter, and open a score's runs, curves, settings and predictions",
    "generate": "answer prompts with a tuned model, in the form of its task; a classifier names a label",
    "evaluate": "score a finished adapter on its run's data or on others",
    "export": "write a run's adapter to a folder of its own, or merge it into a checkpoint for transformers",
    "doctor": "check what runs need on this machine, and say how to fix what is missing",
}
