// A tool round trip with the two official Node SDKs, streamed and not; prints what they made of the answers, as JSON.
// The model's weights are random: calls are made because they are required.
import OpenAI, { NotFoundError as OpenAINotFound } from 'openai';
import Anthropic, { NotFoundError as AnthropicNotFound } from '@anthropic-ai/sdk';

const url = process.argv[2];
const openai = new OpenAI({ baseURL: url + '/v1', apiKey: 'x', maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, authToken: 'x', apiKey: null, maxRetries: 0 });
const model = 'default';
const question = { role: 'user', content: 'What will the weather be?' };
const schema = {
  type: 'object',
  properties: { city: { type: 'string', maxLength: 12 }, days: { type: 'integer', maximum: 9 } },
  required: ['city', 'days'],
};
const calls = {};
const cached = {};

for (const stream of [false, true]) {
  const way = stream ? 'streamed' : 'whole';

  const chat = {
    model, max_tokens: 200, messages: [question],
    tools: [{ type: 'function', function: { name: 'weather', parameters: schema } }],
  };
  const required = { ...chat, tool_choice: 'required' };
  const completion = stream
    ? await openai.chat.completions.stream(required).finalChatCompletion()
    : await openai.chat.completions.create(required);
  const said = completion.choices[0].message;
  const call = said.tool_calls[0];
  calls[`chat ${way}`] = [call.function.name, JSON.parse(call.function.arguments)];
  const next = await openai.chat.completions.create({
    ...chat, max_tokens: 8, messages: [question, said, { role: 'tool', tool_call_id: call.id, content: 'rain' }],
  });
  cached[`chat ${way}`] = next.usage.prompt_tokens_details.cached_tokens;

  const tools = [{ type: 'function', name: 'weather', parameters: schema, strict: true }];
  const ask = { model, max_output_tokens: 200, input: question.content, tool_choice: 'required', tools };
  const response = stream ? await openai.responses.stream(ask).finalResponse() : await openai.responses.create(ask);
  const item = response.output.find((one) => one.type === 'function_call');
  calls[`responses ${way}`] = [item.name, JSON.parse(item.arguments)];
  const further = await openai.responses.create({
    model, max_output_tokens: 8, previous_response_id: response.id, tools,
    input: [{ type: 'function_call_output', call_id: item.call_id, output: 'rain' }],
  });
  cached[`responses ${way}`] = further.usage.input_tokens_details.cached_tokens;

  const message = {
    model, max_tokens: 200, messages: [question], tools: [{ name: 'weather', input_schema: schema }],
  };
  const any = { ...message, tool_choice: { type: 'any' } };
  const first = stream ? await anthropic.messages.stream(any).finalMessage() : await anthropic.messages.create(any);
  const use = first.content.find((block) => block.type === 'tool_use');
  calls[`messages ${way}`] = [use.name, use.input];
  const result = { role: 'user', content: [{ type: 'tool_result', tool_use_id: use.id, content: 'rain' }] };
  const last = await anthropic.messages.create({
    ...message, max_tokens: 8, messages: [question, { role: 'assistant', content: first.content }, result],
  });
  cached[`messages ${way}`] = last.usage.cache_read_input_tokens;
}

const missing = [
  await openai.chat.completions.create({ model: 'none', messages: [question] }).catch((error) => error),
  await anthropic.messages.create({ model: 'none', max_tokens: 8, messages: [question] }).catch((error) => error),
];
console.log(JSON.stringify({
  calls,
  cached,
  refused: [missing[0] instanceof OpenAINotFound, missing[1] instanceof AnthropicNotFound],
}));
