"""From records to what is published: conf/table's tables, their figures, comparisons, the HTML report. No torch."""
