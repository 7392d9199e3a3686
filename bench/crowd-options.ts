// What the crowd may be told: how many, for how long, and where. Only this machine is taken, whatever is asked.

const FANS_MAX = 15_000;
const SECONDS_MAX = 7200;
const RATE_MAX = 2000;

export type CrowdOptions = { fans: number; seconds: number; rate: number; base: string; room: string };

const USAGE =
  'usage: npm run crowd -- [--fans 2000] [--base http://127.0.0.1:8080] [--room demo] [--rate 200] [--seconds 600]';

/** Only addresses of this machine: a name other than localhost could be anyone's. */
export const isOwnMachine = (base: string): boolean => {
  if (!URL.canParse(base)) return false;
  const url = new URL(base);
  const host = url.hostname.replace(/^\[|\]$/g, '');
  return (
    url.protocol === 'http:' &&
    (host === 'localhost' || host === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host))
  );
};

/** Reads the arguments; throws with a sentence when one is unknown or out of range. */
export const readCrowdOptions = (given: readonly string[]): CrowdOptions => {
  const options: CrowdOptions = {
    fans: 2000,
    seconds: 600,
    rate: 200,
    base: 'http://127.0.0.1:8080',
    room: 'demo',
  };
  const whole = (name: string, text: string, max: number): number => {
    const value = /^\d{1,9}$/.test(text) ? Number(text) : 0;
    if (value < 1 || value > max)
      throw new Error(`${name} must be a whole number from 1 to ${max}\n${USAGE}`);
    return value;
  };
  for (let index = 0; index < given.length; index += 2) {
    const [name = '', value] = [given[index], given[index + 1]];
    if (value === undefined) throw new Error(`${name} needs a value\n${USAGE}`);
    if (name === '--fans') options.fans = whole(name, value, FANS_MAX);
    else if (name === '--seconds') options.seconds = whole(name, value, SECONDS_MAX);
    else if (name === '--rate') options.rate = whole(name, value, RATE_MAX);
    else if (name === '--base') options.base = value.replace(/\/$/, '');
    else if (name === '--room') options.room = value;
    else throw new Error(`${name} is not an option\n${USAGE}`);
  }
  if (!isOwnMachine(options.base))
    throw new Error(
      '--base must be http:// on this machine (127.0.0.0/8, ::1 or localhost): no crowd for others',
    );
  if (!/^[a-z0-9-]{1,32}$/.test(options.room)) throw new Error('--room must be the name of a room');
  return options;
};
