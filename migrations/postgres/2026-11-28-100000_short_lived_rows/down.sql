DROP INDEX refusals_age;
DROP INDEX sessions_empty;
