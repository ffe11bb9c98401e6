// A program that knows nothing of otel-perf: OpenTelemetry's JavaScript SDK, sending JSON.
import { BasicTracerProvider, BatchSpanProcessor } from "@opentelemetry/sdk-trace-base";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";

const provider = new BasicTracerProvider({ spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())] });
const span = provider.getTracer("stranger").startSpan("javascript says hello", { attributes: { answer: 42 } });
span.addEvent("spoken");
span.end();
await provider.shutdown();
