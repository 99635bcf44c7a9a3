// The OpenAI SDK for Node on semanticd: npm install openai; node contrib/recipes/openai_sdk.mjs
import OpenAI from 'openai';

const client = new OpenAI({
  baseURL: `${process.env.SEMANTICD_URL ?? 'http://127.0.0.1:8000'}/v1`,
  apiKey: process.env.SEMANTIC_API_KEY ?? 'semanticd',
});

const stream = await client.chat.completions.create({
  model: 'default',
  messages: [{ role: 'user', content: 'Say hello in one sentence.' }],
  prompt_cache_key: 'node', // names the agent
  max_tokens: 40,
  stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? '');
process.stdout.write('\n');
