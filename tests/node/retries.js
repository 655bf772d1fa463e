// A caller with axios-retry as its page has it: on 429 it waits as long as Retry-After says, and asks
// again. Prints one line of JSON per request: how often it was refused before it got through.
//
// node retries.js URL KEY COUNT

const axios = require('axios');
const { default: axiosRetry, exponentialDelay } = require('axios-retry');

const [url, key, count] = process.argv.slice(2);

async function main() {
  for (let n = 0; n < Number(count); n += 1) {
    let refused = 0;
    const client = axios.create({ headers: { 'x-api-key': key }, proxy: false, timeout: 20000 });
    axiosRetry(client, {
      retries: 5,
      retryCondition: (error) => error.response?.status === 429,
      retryDelay: exponentialDelay,
      onRetry: () => { refused += 1; },
    });
    const answer = await client.get(url);
    console.log(JSON.stringify({ status: answer.status, refused }));
  }
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
