-- Login protection: five failures in five minutes, counted even where the failed login is rolled back.
BEGIN;
CREATE EXTENSION IF NOT EXISTS ratelimit;

-- sliding_log is exact: at no moment do the last five minutes hold more than five.
SELECT rl_create_limiter('example_login', '5 per 5 minutes', algorithm => 'sliding_log');

CREATE TEMP TABLE accounts (name text PRIMARY KEY, secret text);
INSERT INTO accounts VALUES ('ann', md5('right'));

CREATE FUNCTION login(account text, password text, address text) RETURNS text
    LANGUAGE plpgsql
    AS $$
DECLARE
    wait interval;
BEGIN
    -- Taken first, so that many guesses at once cannot all see the same free place. Who has failed too often is not even told
    -- whether the password was right.
    wait := (rl_check('example_login', address)).retry_after;
    IF wait > interval '0' THEN
        RETURN 'try again in ' || date_trunc('second', wait);
    END IF;
    IF EXISTS (SELECT FROM accounts WHERE name = account AND secret = md5(password)) THEN
        -- A success is no guess. What earlier guesses took stays taken, or an account of one's own would clear it.
        PERFORM rl_refund('example_login', address);
        RETURN 'welcome';
    END IF;
    RETURN 'wrong';
END
$$;

-- A guesser gets five tries, and then no answer, not even to the right password.
SELECT n, login('ann', guess, '203.0.113.7')
  FROM unnest(ARRAY['1234', 'qwerty', 'ann', 'letmein', 'secret', 'right', 'right']) WITH ORDINALITY AS g (guess, n)
 ORDER BY n;

-- Ann, at her own address, slips once.
SELECT login('ann', 'rigth', '192.0.2.4'), login('ann', 'right', '192.0.2.4');

-- A failure counts although its transaction, here a savepoint, is rolled back: limiters in memory keep what was taken
-- unless they are created with on_rollback => 'refund'.
SAVEPOINT attempt;
SELECT login('ann', 'guess', '198.51.100.1');
ROLLBACK TO attempt;
SELECT quota, remaining FROM rl_peek('example_login', '198.51.100.1');

ROLLBACK;
