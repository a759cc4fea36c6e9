"""From records to what is published: the tables of conf/table, their figures, comparisons, the HTML report. No torch."""
