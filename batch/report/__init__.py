"""The report that people read: numbers of a period, and from them a page, a workbook, JSON and a short text, delivered."""
