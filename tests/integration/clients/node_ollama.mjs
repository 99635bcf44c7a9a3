// Ollama's official JavaScript client against a daemon whose model has random weights; prints what it read, as JSON.
import { Ollama } from 'ollama';

const ollama = new Ollama({ host: process.argv[2] });
const model = 'default';
const question = { role: 'user', content: 'What will the weather be?' };
const format = {
  type: 'object',
  properties: { city: { type: 'string', maxLength: 12 }, days: { type: 'integer', maximum: 9 } },
  required: ['city', 'days'],
};
const tools = [{ type: 'function', function: { name: 'weather', description: 'Look.', parameters: format } }];
const options = { num_predict: 200, temperature: 0 };

const whole = await ollama.chat({ model, messages: [question], format, options });
let pieces = 0;
let streamed = '';
let last;
for await (const part of await ollama.chat({ model, messages: [question], format, options, stream: true })) {
  pieces += 1;
  streamed += part.message.content;
  last = part;
}
const afterTool = await ollama.chat({
  model, tools, options: { ...options, num_predict: 4 },
  messages: [
    question,
    { role: 'assistant', content: '', tool_calls: [{ function: { name: 'weather', arguments: { city: 'Oslo', days: 1 } } }] },
    { role: 'tool', tool_name: 'weather', content: 'rain' },
  ],
});
const generated = await ollama.generate({ model, prompt: 'Once', options: { num_predict: 4, temperature: 0 } });
const vectors = await ollama.embed({ model, input: ['a river', 'a lake'] });

// The client's own abort: the stream ends early, with the error that the client makes of it.
const long = await ollama.chat({ model, messages: [question], options: { num_predict: 100000, temperature: 0 }, stream: true });
let aborted = '';
try {
  for await (const _ of long) long.abort();
} catch (error) {
  aborted = error.name;
}

const refused = await ollama.chat({ model: 'none', messages: [question] }).catch((error) => error);
const names = (await ollama.list()).models.map((one) => one.name);
console.log(JSON.stringify({
  whole: JSON.parse(whole.message.content),
  streamed: JSON.parse(streamed),
  pieces,
  done: [last.done, last.done_reason, last.eval_count > 0],
  afterTool: [afterTool.message.role, afterTool.eval_count],
  generated: generated.eval_count,
  vectors: vectors.embeddings,
  aborted,
  refused: [refused.name, refused.status_code],
  names,
  shown: (await ollama.show({ model: names[0] })).capabilities,
  running: (await ollama.ps()).models.length,
}));
