-- rl_simulate: the algorithms on a clock that a test can hold.
SET timezone = 'UTC';
CREATE FUNCTION at(VARIADIC seconds numeric[]) RETURNS timestamptz[] LANGUAGE sql AS
    $$ SELECT array_agg('2024-01-01'::timestamptz + s * interval '1 second' ORDER BY n) FROM unnest(seconds) WITH ORDINALITY AS u(s, n) $$;

-- A bucket starts full, refills all the time, and says the exact wait.
SELECT at, allowed, remaining, retry_after, reset_after, reason
  FROM rl_simulate('2 per minute', at(0, 0, 0, 29.999999, 30, 90));
SELECT at, cost, allowed, remaining, retry_after, reason
  FROM rl_simulate('10/second burst 20', at(0, 0, 0, 0.5), ARRAY[15, 10, 21, 10]);

-- A third of a microsecond is not lost: a million tokens at 3 per microsecond and a million more as they come back.
SELECT count(*) FILTER (WHERE allowed), count(*) FILTER (WHERE NOT allowed)
  FROM rl_simulate('3000 per ms', (SELECT array_agg('2024-01-01'::timestamptz + n / 3 * interval '1 microsecond') FROM generate_series(0, 5999) AS n));

-- A fixed window begins with the clock, whenever the first call comes.
SELECT at, allowed, remaining, retry_after, reset_after
  FROM rl_simulate('2 per minute', at(50, 51, 52, 60), algorithm => 'fixed_window');
-- Days and longer follow the time zone: here a day of 23 hours.
SELECT at AT TIME ZONE 'Europe/Berlin' AS local, allowed, reset_after
  FROM rl_simulate('1 per day', ARRAY['2024-03-30 23:30+01', '2024-03-31 00:00+01', '2024-03-31 23:59:59+02', '2024-04-01 00:00+02']::timestamptz[],
                   algorithm => 'fixed_window', time_zone => 'Europe/Berlin');
SELECT at, allowed, reset_after FROM rl_simulate('1 per 24 hours', ARRAY['2024-03-30 23:30', '2024-03-31 00:00']::timestamptz[],
                   algorithm => 'fixed_window', time_zone => 'Asia/Tokyo');
SELECT at, allowed, reset_after FROM rl_simulate('1 per month', ARRAY['2024-02-01', '2024-02-29', '2024-03-01']::timestamptz[], algorithm => 'fixed_window');
SELECT at, allowed, reset_after FROM rl_simulate('1 per week', ARRAY['2024-01-07', '2024-01-08']::timestamptz[], algorithm => 'fixed_window');
SELECT at, allowed, reset_after FROM rl_simulate('1 per 7 days', ARRAY['2024-01-07', '2024-01-08', '2024-01-11']::timestamptz[], algorithm => 'fixed_window');
SELECT at, allowed, reset_after FROM rl_simulate('1 per 10 years', ARRAY['2019-12-31', '2020-01-01']::timestamptz[], algorithm => 'fixed_window');

-- A sliding window weighs the last window by what is left of it.
SELECT at, allowed, remaining, retry_after, reset_after
  FROM rl_simulate('4 per minute', at(30, 30, 30, 30, 60, 75, 75, 90), algorithm => 'sliding_window');

-- A log is exact: an entry that is exactly a period old has expired.
SELECT at, allowed, remaining, retry_after, reset_after
  FROM rl_simulate('2 per minute', at(0, 30, 59.999999, 60, 60, 90), algorithm => 'sliding_log');

-- Several rules; what the answer says is of the one that binds.
SELECT at, allowed, quota, remaining, retry_after
  FROM rl_simulate('2 per second, 3 per minute', at(0, 0, 0, 1, 2));

-- Times before 1970, equal times, no times.
SELECT at, allowed, reset_after FROM rl_simulate('1 per day', ARRAY['1969-12-31 12:00', '1969-12-31 23:59']::timestamptz[], algorithm => 'fixed_window');
SELECT * FROM rl_simulate('1 per day', '{}');

-- Wrong input.
SELECT * FROM rl_simulate('1 per day', at(2, 1));
SELECT * FROM rl_simulate('1 per day', ARRAY[NULL]::timestamptz[]);
SELECT * FROM rl_simulate('1 per day', ARRAY['infinity']::timestamptz[]);
SELECT * FROM rl_simulate('1 per day', at(1, 2), '{1}');
SELECT * FROM rl_simulate('1 per day', at(1), '{-1}');
SELECT * FROM rl_simulate('1 per day', NULL);
SELECT * FROM rl_simulate('1 a day', at(1));
SELECT * FROM rl_simulate('1 per day', at(1), time_zone => 'Middle/Earth');
SELECT * FROM rl_simulate('1 per day', at(1), time_zone => 'Europe/Berlin');

-- Where the clock jumps over midnight, the day begins after the jump; where midnight comes twice, with the first.
SELECT at AT TIME ZONE 'America/Havana' AS local, allowed, reset_after
  FROM rl_simulate('1 per day', ARRAY['2024-03-10 04:59:59+00', '2024-03-10 05:00+00', '2024-11-03 03:59+00', '2024-11-03 04:00+00', '2024-11-03 05:00+00']::timestamptz[],
                   algorithm => 'fixed_window', time_zone => 'America/Havana');
